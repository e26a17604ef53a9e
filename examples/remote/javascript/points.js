// Points for orders: one for each 10 of the amount. Run it with where it shall answer:
//
//   node points.js nats://127.0.0.1:4222/points.javascript
//   node points.js http://127.0.0.1:8080/
"use strict"
const kisflow = require("./kisflow")

kisflow.serve((row, state) => {
  if (row.amount < 0) throw new RangeError(`an amount of ${row.amount}`)
  if (row.amount === 0) throw new kisflow.Drop("an order of nothing")
  state.orders = (state.orders || 0) + 1
  state.points = (state.points || 0) + Math.floor(row.amount / 10)
  return {user: row.user, orders: state.orders, points: state.points}
}, process.argv[2])
