"""A Foundry project of our own on the loopback: what the real SDKs are proved against."""
