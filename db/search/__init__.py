r"""Search in the database: which files match a query, how they rank, and what a person may be typing.

Rows. Triggers on ``files`` (migration 0009) keep all of these but ``object_texts``:

- ``file_words``: one row for each word of a name, ``/token`` for a token that was split, ``^word`` for the first word, and
  ``#tag`` for each tag. Its index ends with the upload time, so the newest files with a word are its last entries.
- ``owner_words``: the distinct words of an owner's names, for parts of words and misspellings. No numbers, four characters up.
- ``object_texts``: the text of an object, written by ``texts.put``. Files on one object share it.
- ``file_texts``: the words of a file's text and name as one tsvector. A copy of the text's words for each file, so that a search
  counts and picks from this table alone.

Invariants: no query costs more than its clock allows (``clock.Clock``); values are always parameters, and ``%``, ``_`` and ``\``
in them are literal; only the text of a ready file counts; a search for an owner finds only the files of that owner.

Read query.py first.

- query.py       a tree of core/search_query.py as one SQL statement: finds, counts and ranks files
- terms.py       a term as a test of one file, and the rank class of a file
- clock.py       the time limit of a search
- lookup.py      a term as words to look up in ``file_words`` and ``file_texts``
- name_words.py  the words of names: which ones a typed word may mean, near ones, suggestions
- texts.py       texts: storing and indexing them, stems, terms as tsqueries
"""
