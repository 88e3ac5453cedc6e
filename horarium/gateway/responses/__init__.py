"""OpenAI's Responses protocol: a response is a run, and nothing of it is kept here.

What a client is shown, at once, in a stream or years later, is read from the ledger, so any gateway process can answer.
Imports nothing of the engine.
"""
