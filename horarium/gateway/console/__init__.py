"""The console: pages for people, rendered here, with a little JavaScript of our own and nothing from elsewhere.

Each module is one noun's pages. They look things up and give orders as the REST routes do; nothing is decided here.
"""
