r"""Search in the database: which files match a query, how they rank, and what a person may be typing.

``search_index`` has a row for each file with one tsvector, under one GIN index: words of the name, tags and type, and, if the
file is ready, the words of its text. Triggers on ``files`` (migration 0018) put the id of a new or changed file into
``search_queue``, and the worker indexes what is queued. ``search_words`` has the distinct words of an owner's names, for parts of
words and misspellings.

Invariants: every filter and the name are tested on the live row of ``files``, so that a row not yet indexed anew hides a file
for a moment, but shows none that is foreign, trashed, moved or renamed (T82); no query costs more than its clock allows (T81);
values are always parameters, and ``%``, ``_`` and ``\`` in them are literal; only the text of a ready file counts.

Read query.py first.

- query.py  a tree of core/search_query.py as one SQL statement: finds, counts and ranks files
- terms.py  a leaf of the tree as a tsquery and as a test of one file, and the rank class of a file
- index.py  texts, and the rows of the index
- words.py  the words of names: parts, misspellings, suggestions
- clock.py  the time limit of a search
"""
