"""What activities/mcp_tools.py is made of: connections to MCP servers, their tools as runs pin them, their answers."""
