// Remote functions for KisFlow in JavaScript: protocol version 1, over NATS or HTTP, with Node.js alone.
//
//   const kisflow = require("./kisflow")
//   kisflow.serve((row, state, ctx) => {
//     state.n = (state.n || 0) + 1
//     return {user: row.user, n: state.n}
//   }, "nats://127.0.0.1:4222/count.users")   // or "http://127.0.0.1:8080/"
//
// The handler gets a row, the state of its key, which it changes in place, and what else there is to know (ctx). It
// returns a row, an array of rows, nothing, or true for the row as it came; or a promise of these. What it throws is the
// reason of the row's dead letter; the state is then as it was.
//
// JSON.parse makes numbers of all integers: those beyond 2^53 are not exact here. A script inside of KisFlow gets them
// as BigInt.
"use strict"
const http = require("node:http")
const net = require("node:net")

// Drop is thrown for a row that is unwanted: it ends here, without a dead letter.
class Drop extends Error {}

// answer is the answer to a request, both as JSON.
async function answer(handle, request) {
  const q = JSON.parse(request)
  if (q.v !== 1) return JSON.stringify({v: 1, error: "this program knows version 1 only"})
  const results = []
  for (const call of q.calls) {
    let state = call.state || {}
    const rows = []
    for (const {row, meta} of call.rows) {
      const before = JSON.stringify(state)
      try {
        const given = await handle(row, state, {key: call.key, params: q.params, meta, now: q.now})
        rows.push(given === true ? {pass: true} : {emit: given == null ? [] : Array.isArray(given) ? given : [given]})
      } catch (e) {
        state = JSON.parse(before)
        rows.push(e instanceof Drop ? {drop: e.message} : {error: String(e)})
      }
    }
    results.push({state, rows})
  }
  return JSON.stringify({v: 1, id: q.id, results})
}

// serve answers requests for ever: nats://HOST:PORT/SUBJECT or http://HOST:PORT/.
function serve(handle, address) {
  const at = new URL(address)
  if (at.protocol === "http:") serveHTTP(handle, at)
  else serveNATS(handle, at)
}

function serveHTTP(handle, at) {
  http.createServer((q, p) => {
    const chunks = []
    q.on("data", (c) => chunks.push(c))
    q.on("end", async () => {
      try {
        p.setHeader("Content-Type", "application/json").end(await answer(handle, Buffer.concat(chunks)))
      } catch (e) {
        p.writeHead(400).end(String(e))
      }
    })
  }).listen(at.port, at.hostname, () => console.log("answers on", at.href))
}

// serveNATS is a client of NATS as small as it can be. Programs of one subject share the requests: they are in one
// queue group.
function serveNATS(handle, at) {
  const subject = at.pathname.slice(1)
  const s = net.connect(at.port || 4222, at.hostname)
  let unread = Buffer.alloc(0)
  let limit = 1 << 20
  let turn = Promise.resolve() // one request at a time
  const message = async (reply, payload) => {
    let body = Buffer.from(await answer(handle, payload))
    if (body.length > limit) body = Buffer.from(JSON.stringify({v: 1, error: `the answer has ${body.length} bytes, NATS takes ${limit}; use a smaller batch`}))
    s.write(`PUB ${reply} ${body.length}\r\n`)
    s.write(body)
    s.write("\r\n")
  }
  s.on("data", (data) => {
    unread = Buffer.concat([unread, data])
    for (;;) {
      const end = unread.indexOf("\r\n")
      if (end < 0) return
      const words = unread.subarray(0, end).toString().split(" ")
      if (words[0] === "MSG") {
        const size = Number(words.at(-1))
        if (unread.length < end + 2 + size + 2) return // the rest is on its way
        const payload = unread.subarray(end + 2, end + 2 + size)
        unread = unread.subarray(end + 2 + size + 2)
        if (words.length === 5) turn = turn.then(() => message(words[3], payload)).catch((e) => console.error(e))
        continue
      }
      const rest = unread.subarray(0, end).toString()
      unread = unread.subarray(end + 2)
      if (words[0] === "INFO") {
        limit = JSON.parse(rest.slice(5)).max_payload
        s.write(`CONNECT {"verbose":false,"lang":"javascript","version":"1","name":"kisflow example","headers":false}\r\nSUB ${subject} kisflow 1\r\nPING\r\n`)
      } else if (words[0] === "PING") s.write("PONG\r\n")
      else if (words[0] === "PONG") console.log("answers on", at.href)
      else if (words[0] === "-ERR") console.error("NATS:", rest)
    }
  })
  s.on("error", (e) => console.error("NATS:", e.message))
  s.on("close", () => setTimeout(() => serveNATS(handle, at), 1000)) // NATS is gone, or not there yet
}

module.exports = {serve, answer, Drop}
