#!/bin/sh
# A newcomer's first hour, from the wheel alone: enqueue, work, look at what was given up, mend it, redrive.
set -eu

expect() {  # expect WORDS COMMAND...: run it, show it, and find the words in what it prints
    words=$1; shift
    "$@" > out.txt 2>&1 || { cat out.txt; echo "failed: $*"; exit 1; }
    cat out.txt
    grep -q -- "$words" out.txt || { echo "not found: $words"; exit 1; }
}

echo "tea=5" > stock.txt
expect "Receipt(" python shop.py
expect "cloudq-\|shop-" cloudq explain shop:app
expect "composed" cloudq check shop:app --target sqs,pubsub,servicebus
cloudq queues shop:app --json | python -c 'import json, sys; assert {row["queue"] for row in json.load(sys.stdin)} == {"mail", "pay", "pdf", "stock"}'

# A charge fails at first, and a burst ends before its retry: again, until nothing waits.
tries=0
until cloudq worker shop:app --burst --log-level ERROR >> work.txt 2>&1 && grep -q "paid order 17" work.txt && grep -q "how was it" work.txt; do
    tries=$((tries + 1)); [ $tries -lt 30 ] || { cat work.txt; exit 1; }
    sleep 0.5
done
cat work.txt
grep -q "charged 4200 to ann@example.com at attempt 2" work.txt
grep -q "reserved 1 tea" work.txt
grep -q "invoice 17" work.txt

# The bad day: a product that nobody has entered, found, understood, mended and redriven.
cloudq enqueue shop:app shop.reserve coffee count=2
expect "ALARM shop.reserve" cloudq worker shop:app --burst --log-level ERROR
expect "not found: 'coffee'" cloudq dlq ls shop:app --task shop.reserve
expect '"count": 2\|"count":2' cloudq dlq show shop:app "$(cloudq dlq ls shop:app --json | python -c 'import json, sys; print(json.load(sys.stdin)[0]["task_id"])')"
echo "coffee=9" >> stock.txt
expect "1 would be redriven" cloudq dlq redrive shop:app --kind rejected --dry-run
expect "stock: 1 redriven" cloudq dlq redrive shop:app --kind rejected
expect "reserved 2 coffee" cloudq worker shop:app --burst --processes 2 --log-level ERROR
expect "no dead letters" cloudq dlq ls shop:app

python -m pytest -q -p no:cacheprovider test_shop.py
echo "a newcomer's first hour: done"
