"""The Responses protocol, as the official client speaks it."""
