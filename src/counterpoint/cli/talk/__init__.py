"""The terminal of `counterpoint chat`."""
