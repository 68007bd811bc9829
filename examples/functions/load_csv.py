"""Rows of CSV into SQLite, ``sku,name,price``: opened once, committed once for each batch.

    slimq fn deploy load_csv load_csv.py --option batch_size=1000
    tail -n +2 prices.csv | slimq add load_csv

No row is OK before `after_batch` has committed it; a batch that could not be committed runs
again, and INSERT OR REPLACE makes that harmless. In a sandbox the file is in the memory of the
context and ends with it; a file that stays takes a function of your own, without a sandbox
(`slimq dev --unsafe-no-sandbox`).
"""

import csv
import sqlite3

FILE = "/tmp/prices.db"


def before(context):
    global database
    database = sqlite3.connect(FILE, timeout=30)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute(
        "CREATE TABLE IF NOT EXISTS price (sku TEXT PRIMARY KEY, name TEXT, cents INT)"
    )
    database.commit()


def before_batch(context):
    database.rollback()  # what a batch before this one did and could not commit


def handler(event, context):
    try:
        (row,) = csv.reader([event.decode()])
        sku, name, price = row
        cents = round(100 * float(price))
    except ValueError as error:
        raise context.Failed(f"no row: {error}") from error
    database.execute("INSERT OR REPLACE INTO price VALUES (?, ?, ?)", (sku, name, cents))


def after_batch(context):
    database.commit()
