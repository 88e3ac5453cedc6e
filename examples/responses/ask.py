"""An agent that pays money back, asked with OpenAI's own client: the call waits for your approval.

horarium up                                  # in one terminal
horarium serve cashier                       # in another
python ask.py http://127.0.0.1:8088          # --yes approves without asking
"""

from __future__ import annotations

import sys

from openai import OpenAI

address = next((word for word in sys.argv[1:] if word.startswith("http")), "http://127.0.0.1:8088")
client = OpenAI(base_url=address, api_key="not needed on this machine")

print("> Please pay order 7 back.")
with client.responses.stream(model="cashier", input="Please pay order 7 back.") as stream:
    for event in stream:
        if event.type == "response.output_text.delta":
            print(event.delta, end="", flush=True)
        elif event.type == "response.output_text.done":
            print()
    response = stream.get_final_response()

answers = []
for item in response.output:
    if item.type == "mcp_call":
        print(f"[{item.name} {item.arguments} -> {item.output}]")
    if item.type == "mcp_approval_request":
        print(f"It asks for your approval: {item.name} {item.arguments}")
        yes = "--yes" in sys.argv or input("Approve? [y/N] ").lower() == "y"
        answers.append({"type": "mcp_approval_response", "approval_request_id": item.id, "approve": yes})

response = client.responses.create(model="cashier", input=answers, previous_response_id=response.id)
print(response.output_text)

print("> Which order was it?")
response = client.responses.create(model="cashier", input="Which order was it?", previous_response_id=response.id)
print(response.output_text)
