"""The web page: server-side HTML that works without JavaScript; with it, lists update while typing and answering."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from importlib.resources import files
from typing import Any
from urllib.parse import quote, unquote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from collabkit.serve.web import asked, itemmap
from collabkit.serve.web.answerer import Answers
from collabkit.serve.web.asked import Refused
from collabkit.serve.web.catalogue import one_line
from collabkit.serve.web.holder import Held
from collabkit.serve.web.service import Service, alike
from collabkit.serve.web.wire import Answering

__all__ = ["Pages"]

ROWS, HISTORY, QUESTIONS = 20, 50, 10
NAV = (("./", "Search"), ("questions", "Your list"), ("map", "Map"), ("about", "About"))
HEADINGS = {404: "Not found", 422: "The request cannot be answered", 503: "Too many requests at the moment"}


class Pages:
    """The pages on a service.

    Args:
        service: the service.
    """

    def __init__(self, service: Service):
        self.service = service
        self.templates = Environment(
            loader=PackageLoader("collabkit.serve.web"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
            lstrip_blocks=True, auto_reload=False,
        )  # fmt: skip

    def routes(self) -> list[Route | Mount]:
        """The routes of Starlette."""
        pages = {"/": self.home, "/person": self.person, "/why": self.why, "/item": self.item,
                 "/questions": self.questions, "/map": self.map, "/about": self.about}  # fmt: skip
        routes = [Route(path, Answering(self._safe(page)), methods=["GET"]) for path, page in pages.items()]
        static = StaticFiles(directory=str(files("collabkit.serve.web") / "static"))
        return [*routes, Mount("/static", static)]

    def _safe(self, page: Callable) -> Callable:
        """A page whose refusals are pages too."""

        @functools.wraps(page)
        async def shown(request: Request) -> Response:
            try:
                return await page(request, self.service.holder.now)
            except Refused as error:
                held, heading = self.service.holder.now, HEADINGS.get(error.status, "The request cannot be answered")
                found = self._page(held, "error.html", "", heading=heading, message=error.message)
                found.status_code = error.status
                if error.retry_after is not None:
                    found.headers["Retry-After"] = str(error.retry_after)
                return found

        return shown

    def _page(self, held: Held, template: str, here: str, **values: Any) -> HTMLResponse:
        facts = held.kept.setdefault("facts", held.answerer.facts())
        return HTMLResponse(self.templates.get_template(template).render(facts=facts, nav=NAV, here=here, **values))

    async def home(self, request: Request, held: Held) -> Response:
        """A search, the most popular items first."""
        params = request.query_params
        q = params.get("q", "")[:200]
        q = q if q.isprintable() else one_line(q)
        offset = asked.whole_text("offset", 0, 10**9)(params.get("offset") or "0")
        found, total = await self.service.other(lambda: held.catalogue.search(q, ROWS, offset))
        most = max(1, max(held.catalogue.counts, default=1))
        counts = [held.catalogue.counts[held.items.place[item]] for item in found]
        rows = [row(held, item, f"{n:,}", n / most) for item, n in zip(found, counts, strict=True)]
        more = urlencode({"q": q, "offset": offset + ROWS}) if offset + ROWS < total else ""
        people = [(address(held.users.text(one)), one_line(str(one))) for one in held.users.values[:3]]
        return self._page(held, "home.html", "./", q=q, total=total, rows=rows, more=more, people=people)

    async def person(self, request: Request, held: Held) -> Response:
        """A user's list with controls, and the user's known events."""
        user, params = _find(held.users, request, "id"), request.query_params
        k = asked.whole_text("k", 1, 100)(params.get("k") or "10")
        diversity = asked.number_text("diversity", 0, 1)(params.get("diversity") or "0")
        novelty = asked.number_text("novelty", -10, 10)(params.get("novelty") or "0")
        hide = params.getlist("hide")
        options: dict = {"k": k, "diversity": diversity, "novelty_weight": novelty}
        if away := held.catalogue.hidden([tuple(one.partition(":")[::2]) for one in hide]):
            options["exclude"] = away
        found = await self._with_reasons(lambda more: self._of_user(held, user, options | more))
        history = await self.service.other(lambda: held.answerer.history(user))
        rows = listed(held, found)
        for one in rows:
            one["why"] = f"why?user={address(held.users.text(user))}&item={one['address']}" if one["because"] else None
        known = [row(held, one["item"], rating(one.get("rating"))) for one in history[::-1][:HISTORY] if one["item"]]
        values = {"k": k, "diversity": diversity, "novelty": novelty, "hide": hide, "kinds": held.catalogue.kinds}
        values |= {
            "id": address(held.users.text(user)),
            "name": one_line(str(user)),
            "rows": rows,
            "notes": found.notes,
        }
        return self._page(held, "person.html", "", history=known, n_history=len(history), **values)

    async def _of_user(self, held: Held, user: Any, options: dict) -> Answers:
        return (await self.service.lists(held, [user], options, alike(options)))[0]

    async def _with_reasons(self, ask: Callable) -> Answers:
        """Lists with reasons for each item, if the model supports them."""
        try:
            return await ask({"why": True})
        except Refused as error:
            if error.status != 422:
                raise
            return await ask({})

    async def why(self, request: Request, held: Held) -> Response:
        """What each past item adds to a score."""
        user, item = _find(held.users, request, "user"), _find(held.items, request, "item")
        found = await self.service.other(lambda: held.answerer.why(item, user=user))
        shares = [one for one in found.records if "share" in one]
        past = [one for one in shares if one["part"] == "history"]
        score = sum(one["share"] for one in shares)
        most = max((abs(one["share"]) for one in past), default=0) or 1.0
        names = {"prior": "before any event", "rest": "not explained by the events"}
        rows = [row(held, one["item"], f"{one['share']:+.3f}", one["share"] / most) for one in past[:HISTORY]]
        left = past[HISTORY:]
        if left:
            rows.append(bare(f"{len(left):,} others", sum(one["share"] for one in left), most))
        rows += [bare(names.get(one["part"], one["part"]), one["share"], most) for one in shares if one not in past]
        values = {"title": held.catalogue.title(item), "address": address(held.items.text(item)), "rows": rows}
        values |= {"name": one_line(str(user)), "user_address": address(held.users.text(user))}
        rest = "together they add up to the score"
        return self._page(held, "why.html", "", score=plain(score), rest=rest, notes=found.notes, **values)

    async def item(self, request: Request, held: Held) -> Response:
        """Facts about an item, and similar items."""
        item = _find(held.items, request, "id")
        try:
            found = await self.service.other(lambda: held.answerer.similar(item, 10))
        except Refused as error:
            if error.status != 422:
                raise
            found = Answers([], [error.message])
        place, catalogue = held.items.place[item], held.catalogue
        facts = [(name, ", ".join(lists[place])) for name, lists in catalogue.categories.items() if lists[place]]
        chart = await self._map_of(held)
        values = {"title": catalogue.title(item), "shown": shown(held.items.text(item)), "facts_of": facts}
        values |= {"place": catalogue.by_count.index(place) + 1, "events": catalogue.counts[place]}
        values |= {"labels": catalogue.labels(item), "address": address(held.items.text(item))}
        on_map = chart is not None and place in chart.places
        rows = listed(held, found, "similarity")
        return self._page(held, "item.html", "", rows=rows, notes=found.notes, on_map=on_map, **values)

    async def questions(self, request: Request, held: Held) -> Response:
        """A few questions, and the list for the answers."""
        choices = _choices(held)
        told = await self._questions(held)
        answers = _answers(held, request)
        options: dict = {"k": 10}
        if answers:
            rated = held.answerer.facts()["rated"]
            options["history"] = {i: float(v) for i, v in answers.items()} if rated else list(answers)
            found = await self._with_reasons(lambda more: self.service.new_list(held, options | more))
        else:
            found = await self.service.other(lambda: held.answerer.default(10))
        questions = [row(held, item) | {"answer": answers.get(item, "")} for item in told]
        values = {"questions": questions, "choices": choices, "n_answers": len(answers), "notes": found.notes}
        return self._page(held, "questions.html", "questions", rows=listed(held, found), **values)

    async def _questions(self, held: Held) -> list[Any]:
        """The items to ask about: the most informative ones, or the most popular if a model does not support that."""
        n = min(QUESTIONS, len(held.items))

        def ask() -> list[Any]:
            try:
                return [one["item"] for one in held.answerer.questionnaire(n).records]
            except (TypeError, ValueError, NotImplementedError):
                return held.catalogue.search("", n)[0]

        if "questions" not in held.kept:
            held.kept["questions"] = await self.service.other(ask)
        return held.kept["questions"]

    async def map(self, request: Request, held: Held) -> Response:
        """A map of the most popular items."""
        chosen = held.items.parse(request.query_params["id"]) if "id" in request.query_params else None
        chart = await self._map_of(held)
        points = [] if chart is None else [_point(held, chart, j, chosen) for j in range(len(chart.places))]
        legend, explained = ([], "") if chart is None else (chart.legend, f"{chart.explained:.0%}")
        return self._page(held, "map.html", "map", points=points, legend=legend, explained=explained)

    async def _map_of(self, held: Held) -> itemmap.ItemMap | None:
        if "map" not in held.kept:
            held.kept["map"] = await self.service.other(lambda: itemmap.make_map(held))
        return held.kept["map"]

    async def about(self, request: Request, held: Held) -> Response:
        """Facts about the artefact, and its metrics."""
        config, facts = held.answerer.config, held.answerer.facts()
        rows = [("Model", facts["model"]), ("People", f"{facts['users']:,}"), ("Items", f"{facts['items']:,}")]
        rows += [("Training rows", f"{facts['rows']:,}"), ("Kind", "ratings" if facts["rated"] else "events")]
        options = config.get("model", {}).get("arguments") or {}
        rows += [(name, str(value)) for name, value in options.items() if value is not None]
        rows += [("Written by", f"collabkit {config.get('written_by', '')}"), ("Answered by", held.answerer.engine)]
        rows += [("Loaded", f"{held.number} time{'s' * (held.number > 1)} since the start")]
        columns, metrics = figures(config.get("metrics") or {})
        user = held.users.values[0]
        values = {"base": str(request.base_url), "example": address(held.users.text(user))}
        values |= {"example_json": json.dumps(held.users.json(user), ensure_ascii=False)}
        refused = None if self.service.holder.refused is None else self.service.holder.refused["why"]
        return self._page(held, "about.html", "about", rows=rows, columns=columns, metrics=metrics, refused=refused,
                          **values)  # fmt: skip


def row(held: Held, item: Any, number: str | None = None, share: float | None = None) -> dict:
    """An item for the templates."""
    labels, title = held.catalogue.labels(item), held.catalogue.title(item)
    shown = {"title": title, "address": address(held.items.text(item)), "labels": labels}
    return {**shown, "number": number, "share": share, "because": (), "why": None}


def bare(title: str, share: float, most: float) -> dict:
    """A share of something that is not an item."""
    return {"title": title, "address": None, "number": f"{share:+.3f}", "share": share / most}


def listed(held: Held, found: Answers, column: str = "score") -> list[dict]:
    """The rows of a list, with reasons."""
    scores = [one[column] for one in found.records]
    finite = [score for score in scores if score is not None]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    rows = []
    for one, score in zip(found.records, scores, strict=True):
        share = None if score is None or high == low else 0.15 + 0.85 * (score - low) / (high - low)
        shown = row(held, one["item"], plain(score), share)
        because = one.get("because")
        because = [] if because is None else because if isinstance(because, list) else [because]
        shown["because"] = [{"title": held.catalogue.title(i), "address": address(held.items.text(i))} for i in because]
        rows.append(shown)
    return rows


def figures(metrics: dict) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Metrics as columns and rows: plain numbers, or tables by metric."""
    columns: list[str] = []
    rows = []
    for name, value in metrics.items():
        values = value if isinstance(value, dict) else {"value": value}
        columns += [column for column in values if column not in columns]
        rows.append((str(name), values))
    return columns, [(name, [plain(values.get(column)) or "" for column in columns]) for name, values in rows]


def address(text: str) -> str:
    """A text escaped for a URL."""
    return quote(text, safe="")


def plain(value: Any) -> str | None:
    """A number for display."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if abs(value) < 1 else f"{value:.2f}"


def shown(text: str) -> str:
    """An id for display, with invisible characters spelt out."""
    return text if text.isprintable() else ascii(text)[1:-1]


def rating(value: float | None) -> str | None:
    """A rating as it was given."""
    return None if value is None else f"{value:g}"


def _find(ids: Any, request: Request, name: str) -> Any:
    """The id in a URL, or in a form, where it is escaped once more, because form fields cannot hold NUL."""
    params = request.query_params
    if name in params:
        return ids.find(ids.parse(params[name]))
    if f"{name}_escaped" not in params:
        raise Refused(422, "invalid", f"the address lacks {name}=")
    return ids.find(ids.parse(unquote(params[f"{name}_escaped"])))


def _choices(held: Held) -> list[tuple[str, str]]:
    """The possible answers: some ratings, or "I like it"."""
    facts = held.answerer.facts()
    if not facts["rated"]:
        return [("", "no"), ("1", "I like it")]
    low, high = facts["y_range"] or (0.0, 5.0)
    whole = range(math.floor(low) + 1, math.floor(high) + 1)
    steps = [low + (high - low) * share for share in (0.1, 0.3, 0.5, 0.7, 0.9)]
    values = [str(n) for n in whole] if 2 <= len(whole) <= 10 else [f"{step:.2f}" for step in steps]
    return [("", "not seen"), *((value, value) for value in values)]


def _answers(held: Held, request: Request) -> dict[Any, str]:
    """The answered items, if their answers are among the choices."""
    params, answers = request.query_params, {}
    values = {value for value, _ in _choices(held) if value}
    for j in range(1, 101):
        if f"q{j}" in params and params.get(f"r{j}"):
            if params[f"r{j}"] not in values:
                raise Refused(422, "invalid", f"an answer is one of {', '.join(sorted(values))}")
            answers[held.items.find(held.items.parse(unquote(params[f"q{j}"])))] = params[f"r{j}"]
    return answers


def _point(held: Held, chart: itemmap.ItemMap, j: int, chosen: Any) -> dict:
    place, (x, y) = chart.places[j], chart.xy[j].round(1).tolist()
    item, title = held.items.values[place], held.catalogue.titles[place]
    r, mine = itemmap.radius(held, place), chosen is not None and item == chosen
    named = mine or j in chart.labelled
    return {"address": address(held.items.text(item)), "title": title, "x": x, "y": y, "r": r, "chosen": mine,
            "colour": chart.colours[j], "label": itemmap.label(title) if named else None,
            "label_y": round(itemmap.label_y(y, r), 1)}  # fmt: skip
