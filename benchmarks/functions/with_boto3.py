"""A bare handler: reads the records, with a client of SQS at hand as one that retries by itself would have."""

import json

import boto3

sqs = boto3.client("sqs", region_name="us-east-1")


def handler(event, _context):
    for record in event["Records"]:
        json.loads(record["body"])
    return {"batchItemFailures": []}
