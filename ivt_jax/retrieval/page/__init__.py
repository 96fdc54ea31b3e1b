"""The search page: one static page and the API it calls, for one gallery on this machine."""
