"""OpenAI's API over the engine: completions and chat with a negative prompt and a guidance scale, streamed or not.

errors    what goes wrong, in OpenAI's shape
schema    the wire's fields
limits    what one server takes on
reading   from the wire's fields to the engine's requests
worker    the thread that owns the engine
answers   from the engine's progress to OpenAI's objects
transport bodies, server-sent events, clients that go away
metrics   what is counted
app       the routes
process   loading, listening, ending
"""
