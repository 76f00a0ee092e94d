r"""Search in the database: which files match a query, how they rank, and what a person may be typing.

``search_index`` has a row for each file with one tsvector, under one GIN index: words of the name, tags and type, and, if the
file is ready, the words of its text. Triggers on ``files`` (migration 0018) put the id of a new or changed file into
``search_queue``, and the worker indexes what is queued. ``search_words`` has the distinct words of an owner's names, for parts of
words and misspellings.

Invariants: a row of the index counts only while it says of its file what the live row of ``files`` says, so that a change hides a
file until it is indexed anew, but no search shows one that is foreign, trashed, moved or renamed (T82); no query costs more than
its clock allows (T81); values are always parameters, and ``%``, ``_`` and ``\`` in them are literal; only the text of a ready
file counts.

Read query.py first.

- query.py  a tree of core/search_query.py as one SQL statement: finds, counts and ranks files; the time limit of a search
- terms.py  a leaf of the tree as a tsquery and as a test of one file, and the rank class of a file
- index.py  texts, and the rows of the index
- words.py  other words to look for: stems, words of names that contain one or are spelt like it
"""
