#!/bin/sh
# A nightly backup with restic: nightly.sh FOLDER ENDPOINT BUCKET. From cron, for example at 03:10 each day:
#
#   10 3 * * * nightly.sh /srv http://127.0.0.1:9000 backups
#
# Keys and the repository's password come from the environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
# AWS_DEFAULT_REGION=grand-est, RESTIC_PASSWORD. A gateway that is down stands for one of nine: give another endpoint.
set -eu

folder=$1
export RESTIC_REPOSITORY="s3:$2/$3/restic"

restic cat config >/dev/null 2>&1 || restic init
restic backup "$folder"
restic forget --prune --keep-daily 7 --keep-weekly 5 --keep-monthly 12
restic check --read-data-subset=1/7
