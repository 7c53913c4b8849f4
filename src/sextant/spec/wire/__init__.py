"""Wire schemas: the request and answer shapes of the public APIs, as msgspec structs."""
