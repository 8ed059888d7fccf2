"""A model's vectors in Postgres, where pgvector searches them: `Recommender.to_pgvector` and `from_pgvector`.

    items  idx, id, vector    row 1, 2, ...; the vectors have one more number, so that all are of one length
    users  idx, id, vector    likewise, with 0 for that number
    seen   user_idx, item_idx what each user has met
    facts  key, value         what the model is, and what was measured
    recommend(user_id, k, filter_seen)  the function that answers

The nearest of vectors of one length have the largest products, so that a graph finds them; see `retrieval.faiss_index`.
"""

import json
import time
import uuid
from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from collabkit import __version__
from collabkit.data.dataset import Dataset
from collabkit.data.vocab import Vocab
from collabkit.models import CollFilter
from collabkit.models.base import say_untrained
from collabkit.retrieval.faiss_index import of_equal_length
from collabkit.retrieval.index import ExactIndex
from collabkit.serve import exchange
from collabkit.serve.indexed import asked, drawn, item_vectors

if TYPE_CHECKING:
    from collabkit.serve.recommender import Recommender

__all__ = ["read", "write"]

FORMAT = 1
TABLES = ("items", "users", "seen", "facts")
EFFORTS = (40, 100, 200, 400, 1000)  # candidates that a search of the graph keeps
MOST = 2000  # numbers of a vector up to which pgvector has an index
FUNCTION = """
create function {name}(user_id {user}, k integer default 10, filter_seen boolean default true)
returns table (item {item}, rank bigint, score real) language plpgsql stable
set search_path = {schema}, {extension}, pg_temp set hnsw.iterative_scan = 'strict_order'
set hnsw.ef_search = {effort} set hnsw.max_scan_tuples = {most} set enable_hashjoin = off set enable_mergejoin = off
as $body$
#variable_conflict use_column
declare
    asking integer; hiding integer; q vector; met bigint; best integer[];
begin
    select u.idx, u.vector into asking, q from {users} u where u.id = user_id;
    if not found then
        raise exception 'unknown user %', user_id using errcode = 'no_data_found';
    end if;
    if k is null or k < 1 then
        raise exception 'k must be at least 1, got %', k using errcode = 'invalid_parameter_value';
    end if;
    hiding := case when filter_seen then asking else 0 end;  -- nobody has seen anything as user 0
    best := array(
        select i.idx from {items} i
        where not exists (select from {seen} s where s.user_idx = hiding and s.item_idx = i.idx)
        order by i.vector <#> q limit k);
    met := (select count(*) from {seen} s where s.user_idx = hiding);
    if cardinality(best) < least(k, {n_items} - met) then  -- the search of the graph ended too early: look at all
        best := array(
            select i.idx from {items} i
            where not exists (select from {seen} s where s.user_idx = hiding and s.item_idx = i.idx)
            order by (i.vector <#> q) + 0, i.idx limit k);
    end if;
    return query
        select i.id, row_number() over (order by i.vector <#> q, i.idx), {score}
        from {items} i where i.idx = any(best) order by 2;
end $body$
"""


def write(recommender: "Recommender", dsn: str, schema: str, *, index: bool, k: int, min_recall: float, n_queries: int,
          seed: int) -> dict:  # fmt: skip
    """See `Recommender.to_pgvector`."""
    start = time.perf_counter()
    items = item_vectors(recommender.model)[1:].numpy()
    say_untrained(recommender.model)
    kinds = {side: _kind(getattr(recommender, side)) for side in ("users", "items")}
    if not np.isfinite(items).all():
        raise ValueError("the model has NaN or infinite vectors: its training diverged; train again")
    if index and items.shape[1] + 1 > MOST:
        raise ValueError(f"pgvector has indexes for vectors of up to {MOST - 1} numbers, these have {items.shape[1]}: "
                         "give index=False")  # fmt: skip
    users = exchange.vectors(recommender, "users")[1]
    with _connected(dsn) as (connection, sql, extension):
        names = _names(sql, schema, extension, kinds)
        _claim(connection, sql, names, schema)
        _fill(connection, sql, names, kinds, recommender, users, of_equal_length(items))
        options = {"n_items": len(items), "score": _score(recommender.model.y_range)}
        options["most"] = max(20_000, 4 * int(recommender.data.seen.lengths.max()))
        told = _measured(connection, sql, names, options, recommender, index, k, min_recall, n_queries, seed)
        facts = {"format": FORMAT, "written_by": __version__, "class": type(recommender.model).__name__, "kinds": kinds,
                 "y_range": recommender.model.y_range, "columns": [recommender.columns.user, recommender.columns.item],
                 "n_items": len(items), "n_users": len(users), "d": items.shape[1], **told}  # fmt: skip
        _replace(connection, sql, names, options | {"effort": told["effort"]}, facts)
    return {**{name: facts[name] for name in ("n_items", "n_users", "d")}, **told,
            "seconds": round(time.perf_counter() - start, 2)}  # fmt: skip


def read(dsn: str, schema: str) -> tuple[CollFilter, Dataset]:
    """The model and data of `Recommender.from_pgvector`."""
    with _connected(dsn) as (connection, sql, _):
        try:
            facts = dict(
                connection.execute(sql.SQL("select key, value from {}").format(sql.Identifier(schema, "facts")))
            )
        except import_module("psycopg").errors.UndefinedTable as error:
            raise ValueError(f"there is no schema {schema!r} that to_pgvector wrote: {error}") from error
        if facts.get("format") != FORMAT:
            raise ValueError(f"schema {schema!r} has format {facts.get('format')!r}, this collabkit reads {FORMAT}")
        ids, vectors = {}, {}
        for side, name in zip(("users", "items"), facts["columns"], strict=True):
            rows = _rows(connection, sql, schema, side, "id, vector", "idx")
            ids[side] = pd.Index([row[0] for row in rows], name=name)
            vectors[side] = np.array([row[1].to_numpy() for row in rows], dtype=np.float32)[:, : facts["d"]]
        pairs = np.array(_rows(connection, sql, schema, "seen", "user_idx, item_idx", "1, 2")).reshape(-1, 2) - 1
    seen = pd.DataFrame({ids[side].name: ids[side].take(part) for side, part in zip(ids, pairs.T, strict=True)})
    model, data = exchange.from_factors(vectors["users"], vectors["items"], None, ids["users"], ids["items"], seen)
    model.y_range = None if facts["y_range"] is None else tuple(facts["y_range"])
    return model, data


class _connected:
    """A connection in a transaction, with pgvector's types, psycopg's `sql`, and the schema of the extension."""

    def __init__(self, dsn: str):
        try:
            self.psycopg, self.types = import_module("psycopg"), import_module("pgvector.psycopg")
        except ImportError as error:
            raise ImportError("Postgres needs psycopg and pgvector: pip install 'collabkit[postgres]'") from error
        self.connection = self.psycopg.connect(dsn)

    def __enter__(self) -> tuple[Any, Any, str]:
        try:
            where = "select extnamespace::regnamespace::text from pg_extension where extname = 'vector'"
            found = self.connection.execute(where).fetchone()
            if found is None:
                self._extend()
                found = self.connection.execute(where).fetchone()
            self.types.register_vector(self.connection)
            return self.connection, import_module("psycopg.sql"), found[0]
        except BaseException:
            self.connection.close()
            raise

    def _extend(self) -> None:
        try:
            self.connection.execute("create extension vector")
        except self.psycopg.Error as error:
            raise RuntimeError(
                "the server has no extension `vector`, and it cannot be made: install pgvector, and let an owner run "
                f"`create extension vector` ({error})"
            ) from error

    def __exit__(self, kind, *_) -> None:
        try:
            self.connection.rollback() if kind else self.connection.commit()
        finally:
            self.connection.close()


def _kind(vocab: Vocab) -> str:
    """The type of ids in Postgres."""
    first = vocab[1]
    if isinstance(first, (int, np.integer)) and not isinstance(first, (bool, np.bool_)):
        return "bigint"
    if isinstance(first, uuid.UUID):
        return "uuid"
    if not isinstance(first, str):
        raise TypeError(f"ids of type {type(first).__name__} (column {vocab.name!r}) cannot be stored in Postgres: "
                        f"use whole numbers, texts or UUIDs; train on df[{vocab.name!r}].astype(str)")  # fmt: skip
    if odd := next((text for text in vocab.ids if "\0" in text), None):
        raise ValueError(f"Postgres takes no text with a NUL character, such as the id {odd!r} of {vocab.name!r}")
    return "text"


def _names(sql, schema: str, extension: str, kinds: dict) -> dict:
    if not isinstance(schema, str) or not schema or "\0" in schema:
        raise ValueError(f"schema must be a name, got {schema!r}")
    found = {"schema": sql.Identifier(schema), "extension": sql.Identifier(extension)}
    found |= {"user": sql.SQL(kinds["users"]), "item": sql.SQL(kinds["items"])}
    for end in ("", "_new"):
        found |= {f"{name}{end}": sql.Identifier(schema, f"{name}{end}") for name in (*TABLES, "recommend")}
    return found


def _claim(connection, sql, names: dict, schema: str) -> None:
    """Create the schema, lock out other writers, and raise if it has tables of others that would be replaced."""
    connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"collabkit {schema}"])
    connection.execute(sql.SQL("create schema if not exists {schema}").format(**names))
    there = {name for (name,) in connection.execute("select tablename from pg_tables where schemaname = %s", [schema])}
    ours = "facts" in there and connection.execute(
        "select count(*) = 2 from information_schema.columns where table_schema = %s and table_name = 'facts' "
        "and column_name in ('key', 'value')", [schema],
    ).fetchone()[0]  # fmt: skip
    taken = there & {f"{name}{end}" for name in TABLES for end in ("", "_new")}
    if taken and not ours:
        raise FileExistsError(f"schema {schema!r} has tables {sorted(taken)} that to_pgvector did not write, which it "
                              "would replace: choose another schema")  # fmt: skip


def _fill(connection, sql, names: dict, kinds: dict, recommender: "Recommender", users: np.ndarray, items: np.ndarray):
    """Copy everything into new tables."""
    run = lambda text, **more: connection.execute(sql.SQL(text).format(**names, **more))  # noqa: E731
    width = sql.Literal(items.shape[1])
    for side, vectors in (("users", np.pad(users, ((0, 0), (0, 1)))), ("items", items)):
        table, kind = names[f"{side}_new"], sql.SQL(kinds[side])
        columns = "idx integer primary key, id {kind} not null unique, vector {extension}.vector({width}) not null"
        run(f"create table {{table}} ({columns})", table=table, kind=kind, width=width)
        ids = getattr(recommender, side).ids.tolist()
        kind = {"bigint": "int8"}.get(kinds[side], kinds[side])
        _copy(connection, sql, table, ("int4", kind, "vector"), zip(range(1, len(ids) + 1), ids, vectors, strict=True))
    run("create table {seen_new} (user_idx integer, item_idx integer, primary key (user_idx, item_idx))")
    seen = recommender.data.seen
    pairs = torch.stack([seen.rows, seen.values], dim=1)
    pairs = pairs[(pairs > 0).all(1)].tolist()
    _copy(connection, sql, names["seen_new"], ("int4", "int4"), pairs)
    run("create table {facts_new} (key text primary key, value jsonb)")
    for name in ("items", "users", "seen"):
        run("analyze {table}", table=names[f"{name}_new"])


def _copy(connection, sql, table, types: tuple[str, ...], rows: Iterable) -> None:
    with connection.cursor().copy(sql.SQL("copy {} from stdin with (format binary)").format(table)) as copy:
        copy.set_types(types)
        for row in rows:
            copy.write_row(row)


def _score(y_range) -> str:
    """The displayed score, from the negative product."""
    product = "-(i.vector <#> q)"
    if y_range is None:
        return f"({product})::real"
    low, high = map(float, y_range)
    return f"({low!r} + ({high!r} - ({low!r})) / (1 + exp(-({product}))))::real"


def _measured(connection, sql, names: dict, options: dict, recommender: "Recommender", index: bool, k: int,
              min_recall: float, n_queries: int, seed: int) -> dict:  # fmt: skip
    """The recall of the least effort that is enough; without an index if none is."""
    users = drawn(recommender, n_queries, seed)
    queries, hidden = asked(recommender, users)
    ids = recommender.users.ids[users.numpy() - 1].tolist()
    true = _true_scores(recommender, queries, hidden, k)
    recall = 1.0
    if index:
        make = "create index items_new_graph on {items_new} using hnsw (vector {extension}.vector_ip_ops)"
        connection.execute(sql.SQL(make).format(**names))
        for effort in EFFORTS:
            recall = _recall(connection, sql, names, {**options, "effort": effort}, ids, true, k)
            if recall >= min_recall:
                return {"index": "hnsw", "effort": effort, "recall": round(recall, 4), "k": k, "n_queries": len(ids)}
        connection.execute(sql.SQL("drop index {schema}.items_new_graph").format(**names))
    found = _recall(connection, sql, names, {**options, "effort": EFFORTS[0]}, ids, true, k)
    told = {"index": "exact", "effort": EFFORTS[0], "recall": round(found, 4), "k": k, "n_queries": len(ids)}
    return {**told, "tried": round(recall, 4)} if index else told


def _true_scores(recommender: "Recommender", queries, hidden, k: int) -> list[np.ndarray]:
    """The scores of the exact lists of users, the best first."""
    items, logits = ExactIndex(item_vectors(recommender.model)).search(queries, k, hidden)
    scores = recommender.model.activation(logits)
    return [row[there].numpy() for row, there in zip(scores, items > 0, strict=True)]


def _recall(connection, sql, names: dict, options: dict, ids: list, true: list[np.ndarray], k: int) -> float:
    """The share of the exact lists that the function finds, by scores, so that ties count."""
    _make(connection, sql, names, options, "_new")
    ask = sql.SQL("select score from {recommend_new}(%s, %s)").format(**names)
    hits = total = 0
    for one, scores in zip(ids, true, strict=True):
        found = np.array([row[0] for row in connection.execute(ask, [one, k])], dtype=np.float64)
        total += len(scores)
        if len(scores):
            hits += min(len(scores), int((found >= scores[-1] - 1e-5 * max(1, np.abs(scores).max())).sum()))
    connection.execute(sql.SQL("drop function {recommend_new}").format(**names))
    return hits / max(total, 1)


def _make(connection, sql, names: dict, options: dict, end: str) -> None:
    """Create the function on the tables whose names end in `end`."""
    parts = {name: names[f"{name}{end}"] for name in ("items", "users", "seen")}
    parts |= {name: names[name] for name in ("schema", "extension", "user", "item")}
    parts |= {name: sql.SQL(str(value)) for name, value in options.items()}
    connection.execute(sql.SQL(FUNCTION).format(name=names[f"recommend{end}"], **parts))


def _replace(connection, sql, names: dict, options: dict, facts: dict) -> None:
    """Replace the old tables and function by the new ones."""
    rows = [(key, json.dumps(value)) for key, value in facts.items()]
    connection.cursor().executemany(sql.SQL("insert into {facts_new} values (%s, %s)").format(**names), rows)
    old = connection.execute(
        "select oid::regprocedure::text from pg_proc where proname = 'recommend' and pronamespace = %s::regnamespace",
        [names["schema"].as_string(connection)],
    )
    for (signature,) in old.fetchall():
        connection.execute("drop function " + signature)
    if facts["index"] == "hnsw":
        connection.execute(sql.SQL("drop index if exists {schema}.items_graph").format(**names))
        connection.execute(sql.SQL("alter index {schema}.items_new_graph rename to items_graph").format(**names))
    for name in TABLES:
        connection.execute(sql.SQL("drop table if exists {}").format(names[name]))
        rename = sql.SQL("alter table {} rename to {}").format(names[f"{name}_new"], sql.Identifier(name))
        connection.execute(rename)
    _make(connection, sql, names, options, "")


def _rows(connection, sql, schema: str, table: str, columns: str, order: str) -> list[tuple]:
    text = f"select {columns} from {{}} order by {order}"
    return connection.cursor(binary=True).execute(sql.SQL(text).format(sql.Identifier(schema, table))).fetchall()
