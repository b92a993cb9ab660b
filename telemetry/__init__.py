"""The room that only looks: collectors, columnar windows, exposition. It never changes a cluster."""
