"""The history of tuning in SQL: jobs, trials, measurements, events. SQLite beside a laptop, PostgreSQL in a cluster.

The one door to the database. Every method is one short transaction; none waits for a network or an engine inside one.
"""

import logging

# Which dialect and plug-ins it found is no news; it says so while it is imported, too.
logging.getLogger("alembic").setLevel(logging.WARNING)
