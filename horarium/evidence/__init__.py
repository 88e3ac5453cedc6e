"""Evidence: one signed file of a run, and its verification by whoever was given nothing else.

`gathering` writes down what the ledger has, `sealing` signs it, `verifying` reads it again: that part opens no ledger
and asks no server. What a file proves is what its key says; pin the key, and it is the project's word.
"""
