"""The load generator. It runs in processes of its own (`worker`), standard library only, so that neither a caller's
threads nor its garbage disturb the stamps."""
