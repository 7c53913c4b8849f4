"""HTTP/1.1 on asyncio: the server and client protocols of the data plane, and the connection pool."""
