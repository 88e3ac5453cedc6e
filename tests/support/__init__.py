"""What tests share: real servers and workers on a project of their own."""
