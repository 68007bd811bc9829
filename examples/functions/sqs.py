"""A function as it is written for Lambda and SQS; nothing in it knows of slimq.

slimq fn deploy orders sqs.py --option event=sqs
echo '{"order": 7, "quantity": 2}' | slimq add orders
"""

import json
import logging

logger = logging.getLogger()
logger.setLevel(logging.INFO)


def lambda_handler(event, context):
    batch_item_failures = []
    for record in event["Records"]:
        try:
            process(record)
        except Exception:
            logger.exception("message %s failed", record["messageId"])
            batch_item_failures.append({"itemIdentifier": record["messageId"]})
    return {"batchItemFailures": batch_item_failures}


def process(record):
    order = json.loads(record["body"])
    if order["quantity"] < 1:
        raise ValueError("an order has at least one item")
    logger.info("order %s: %s items", order["order"], order["quantity"])
