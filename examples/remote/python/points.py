"""Points for orders: one for each 10 of the amount. Run it with where it shall answer:

    python3 points.py nats://127.0.0.1:4222/points.python
    python3 points.py http://127.0.0.1:8080/
"""

import sys

import kisflow


def handle(row, state, ctx):
    if row["amount"] < 0:
        raise ValueError(f"an amount of {row['amount']}")
    if row["amount"] == 0:
        raise kisflow.Drop("an order of nothing")
    state["orders"] = state.get("orders", 0) + 1
    state["points"] = state.get("points", 0) + row["amount"] // 10
    return {"user": row["user"], "orders": state["orders"], "points": state["points"]}


kisflow.serve(handle, sys.argv[1])
