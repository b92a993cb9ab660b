"""The REST face: FastAPI routers, problem documents, authentication, event streams.

It reads caches and writes custom resources with its caller's own token. It never writes pods and holds no right to
write anything by itself. Routers are thin; what they share lives in `problem`, `auth`, `cache` and `stream`.
"""
