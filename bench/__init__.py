"""What a step costs, measured against a bare Temporal workflow that does the same.

Figures are ratios of one run on one machine, interleaved; nothing here is a test. Run it: python -m bench
"""
