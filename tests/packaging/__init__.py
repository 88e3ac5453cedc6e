"""What is shipped, and who imports whom."""
