"""What runs inside a warm context of lang ``python``: the standard library is all it imports,
and as little of it as can be, because a cold start waits for it."""
