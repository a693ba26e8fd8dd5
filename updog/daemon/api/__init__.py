"""The API of the agent: HTTP/1.1 and JSON on a Unix socket.

From the bottom up:

* ``documents``: what is sent and received, as types; the OpenAPI document is made of them (``openapi``);
* ``access``: who asks, and what they may; ``allowed``: which job is allowed as the node stands. PURE;
* ``problems``: what is wrong with a request, as HTTP says it;
* ``events``: what happened lately, for those who listen; ``jobs``: work that a client asked for;
* ``node``: the node as the API sees it: status, history, decision, each read again when it may have changed;
* ``exchange``: one connection: requests in, responses out, within limits of bytes and seconds;
* ``bottlerocket``: Bottlerocket's paths; ``routes``: all paths, with who may ask for them;
* ``server``: sockets, threads, and the end.

Work is done by children, as for automatic updates: a client that goes away, or a daemon that is killed,
interrupts nothing.
"""
