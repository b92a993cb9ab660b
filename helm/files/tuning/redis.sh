# Runs Redis as the stock image has it. Messages carry ids that the database knows as well: nothing is kept on disk.
umask 077
read -r password < /etc/trimtab/passwords/redis-password || test -n "$password"
case $password in
  *[!A-Za-z0-9_-]*) echo "redis-password: only letters, digits, - and _ are allowed" >&2; exit 1 ;;
esac
printf 'requirepass %s\n' "$password" > /tmp/redis.conf
unset password
exec redis-server /tmp/redis.conf --port 6379 --bind '*' --dir /tmp --save '' --appendonly no \
  --maxmemory 64mb --maxmemory-policy noeviction
