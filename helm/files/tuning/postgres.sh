# Runs PostgreSQL as the stock image has it: initdb and postgres on PATH, account 999. Its folder is made aside and moved
# into place when complete; the password is set at every start, so that the Secret is always right.
umask 077
read -r password < /etc/trimtab/passwords/postgresql-password || test -n "$password"
case $password in
  *[!A-Za-z0-9_-]*) echo "postgresql-password: only letters, digits, - and _ are allowed" >&2; exit 1 ;;
esac
# A server that was killed leaves its lock, and every container's first process has the number in it: 1, which is this shell
# now. PostgreSQL takes a lock of its own parents for stale, and is told of this one as pg_ctl tells it.
single() { PG_GRANDPARENT_PID=$$ postgres --single -c log_min_error_statement=panic -D "$1" postgres > /dev/null; }
if [ ! -f "$PGDATA/PG_VERSION" ]; then
  rm -rf "$PGDATA.draft"
  initdb --pgdata "$PGDATA.draft" --username postgres --auth reject --encoding UTF8 --locale C > /dev/null
  printf '%s\n' 'CREATE ROLE trimtab LOGIN' 'CREATE DATABASE trimtab OWNER trimtab' | single "$PGDATA.draft"
  mv "$PGDATA.draft" "$PGDATA"
fi
printf "ALTER ROLE trimtab PASSWORD '%s'\n" "$password" | single "$PGDATA"
unset password
printf '%s\n' 'local all postgres trust' 'host trimtab trimtab all scram-sha-256' > /tmp/pg_hba.conf
# Transactions take milliseconds. One whose client was lost with its node would hold its job for two hours.
exec postgres -D "$PGDATA" -c hba_file=/tmp/pg_hba.conf -c unix_socket_directories=/tmp -c 'listen_addresses=*' \
  -c jit=off -c wal_level=minimal -c max_wal_senders=0 \
  -c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3 \
  -c idle_in_transaction_session_timeout=60s
