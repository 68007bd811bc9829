"""A crawler that fans out: a line is the path of a page, and each link below it is a new job.

    slimq fn deploy crawl crawl/
    echo index.html | slimq add crawl

The site is shipped with the function, as a sandbox has no network. A job that runs again adds the
same jobs, not further ones; and as only links that go down are followed, no page is read twice.
"""

import posixpath
from html.parser import HTMLParser
from pathlib import Path

SITE = Path(__file__).parent / "site"


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.links, self.words, self.title, self.inside = [], 0, "", ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.inside = tag
        if tag == "a":
            self.links.append(dict(attributes).get("href") or "")

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        self.words += len(data.split())
        if self.inside == "title":
            self.title += data.strip()


def handler(event, context):
    path = event.decode()
    try:
        page = Page((SITE / path).read_text())
    except OSError as error:
        raise context.Failed(f"{path}: {error.strerror}") from error
    folder = posixpath.dirname(path)
    below = {posixpath.normpath(posixpath.join(folder, link)) for link in page.links}
    for link in sorted(link for link in below if is_below(link, folder)):
        context.enqueue(context.jobtype, link)
    return {"title": page.title, "words": page.words, "links": len(page.links)}


def is_below(link, folder):
    start = f"{folder}/" if folder else ""
    return link.startswith(start) and link.count("/") == start.count("/") + 1
