"""The OpenAPI 3.1 description of the service's API."""

from __future__ import annotations

from typing import Any

from ilp_service import __version__
from ilp_service.service.desk import STATUSES

MOST_JOBS = 1000
"""Jobs on a page of the API."""

MOST_PRIORITY = 100
"""Priorities go from minus this to this."""

_Schema = dict[str, Any]


def _maybe(schema: _Schema) -> _Schema:
    return {**schema, "type": [schema["type"], "null"]}


_TEXT: _Schema = {"type": "string"}
_MOMENT: _Schema = {"type": "string", "format": "date-time"}
_JOB_ID: _Schema = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
# No name holds control characters, halves of characters, '/' or ':', and none is blank.
_CONTROL = r"\u0000-\u001f\u007f-\u009f"
_NAME: _Schema = {
    "type": "string",
    "minLength": 1,
    "maxLength": 256,
    "pattern": rf"^[^{_CONTROL}/:]*[^\s{_CONTROL}/:][^{_CONTROL}/:]*$",
}
_FILTER: _Schema = {"type": "string", "maxLength": 256, "pattern": rf"^[^{_CONTROL}]*$"}
_PLACE: _Schema = {"type": "string", "maxLength": 200, "pattern": "^[!-~]*$"}
_STATUS: _Schema = {"type": "string", "enum": list(STATUSES)}
_RATE: _Schema = {"type": "number", "minimum": 0, "maximum": 1}
_COUNT: _Schema = {"type": "integer", "minimum": 0}


def _object(properties: dict[str, _Schema], *, required: list[str] | None = None) -> _Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
        "additionalProperties": False,
    }


def _see(name: str) -> _Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(description: str, schema: _Schema) -> _Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


_ERRORS = {
    "400": "A parameter or the body cannot be read.",
    "401": "A token is needed.",
    "403": "The request comes from another site.",
    "404": "There is no such job.",
    "408": "The body did not arrive in time.",
    "409": "The job's status does not allow it.",
    "413": "The body is too large.",
    "415": "The body is not JSON.",
    "421": "The Host header names something else.",
    "422": "The body is not what is expected.",
    "429": "Too many wrong tokens came from this address; 'Retry-After' says when to try again.",
    "503": "The ledger cannot be reached; ask again later.",
}
_ALWAYS = ("401", "403", "421", "429", "503")


def _operation(name: str, summary: str, answers: _Schema, *errors: str, **more: object) -> _Schema:
    wrong = {status: _json(_ERRORS[status], _see("Error")) for status in sorted({*_ALWAYS, *errors})}
    return {"operationId": name, "summary": summary, **more, "responses": {**answers, **wrong}}


def _query(name: str, meaning: str, schema: _Schema) -> _Schema:
    return {"name": name, "in": "query", "description": meaning, "schema": schema}


_SCHEMAS: _Schema = {
    "Status": _STATUS,
    "Error": _object({"error": _TEXT}),
    "Job": _object(
        {
            "job_id": _JOB_ID,
            "model": _TEXT,
            "version": _TEXT,
            "status": _see("Status"),
            "reason": _maybe(_TEXT),
            "step": _maybe(_TEXT),
            "progress": {**_RATE, "description": "Part of the job that is done, 0-1."},
            "attempts": _COUNT,
            "priority": {"type": "integer", "description": "Higher goes first."},
            "via": {**_TEXT, "description": "Who announced the version first: webhook, reconcile or api."},
            "queued_at": _MOMENT,
            "started_at": _maybe(_MOMENT),
            "ended_at": _maybe(_MOMENT),
            "run_id": _maybe(_TEXT),
            "report_uri": _maybe(_TEXT),
            "unlearned_rate": {**_maybe(_RATE), "description": "Unlearned part of the training samples, 0-1."},
            "top_cause": _maybe(_TEXT),
        }
    ),
    "Jobs": _object({"items": {"type": "array", "items": _see("Job")}, "next": _maybe(_TEXT)}),
    "Counts": _object(dict.fromkeys(STATUSES, _COUNT)),
    "Version": _object(
        {
            "model": _NAME,
            "version": {
                "oneOf": [
                    {"type": "integer", "minimum": 1, "maximum": 2**31 - 1},
                    {"type": "string", "pattern": "^[1-9][0-9]{0,8}$"},
                ]
            },
            "priority": {"type": "integer", "minimum": -MOST_PRIORITY, "maximum": MOST_PRIORITY, "default": 0},
        },
        required=["model", "version"],
    ),
    "Submitted": _object(
        {"job_id": _JOB_ID, "new": {"type": "boolean", "description": "Nobody handed the version in before."}}
    ),
}


def document() -> _Schema:
    """The whole description."""
    job = _see("Job")
    submitted = _json("Its job.", _see("Submitted"))
    one = {"parameters": [{"name": "job_id", "in": "path", "required": True, "schema": _JOB_ID}]}
    model = _query("model", "Only models whose name contains this, in any case.", _FILTER)
    page = [
        model,
        _query("status", "Only jobs with it; empty: all.", {"type": "string", "enum": [*STATUSES, ""]}),
        _query("limit", "At most so many.", {"type": "integer", "minimum": 1, "maximum": MOST_JOBS, "default": 100}),
        _query("after", "What 'next' of the page before says.", _PLACE),
    ]
    body = {"required": True, "content": {"application/json": {"schema": _see("Version")}}}
    wrong_body = ("400", "408", "413", "415", "422")
    paths: _Schema = {
        "/api/jobs": {
            "get": _operation(
                "list_jobs", "Jobs, latest first", {"200": _json("Some jobs.", _see("Jobs"))}, "400", parameters=page
            ),
            "post": _operation(
                "submit", "Diagnose a version", {"200": submitted, "202": submitted}, *wrong_body, requestBody=body
            ),
        },
        "/api/jobs/{job_id}": {
            **one,
            "get": _operation("get_job", "One job", {"200": _json("The job.", job)}, "404"),
        },
        "/api/jobs/{job_id}/cancel": {
            **one,
            "post": _operation("cancel_job", "End an unfinished job", {"200": _json("The job.", job)}, "404", "409"),
        },
        "/api/jobs/{job_id}/retry": {
            **one,
            "post": _operation("retry_job", "Start a job again", {"200": _json("The job.", job)}, "404", "409"),
        },
        "/api/counts": {
            "get": _operation(
                "count_jobs",
                "Jobs of every status",
                {"200": _json("Numbers.", _see("Counts"))},
                "400",
                parameters=[model],
            )
        },
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ilp service",
            "version": __version__,
            "description": "Diagnoses of the model versions that are registered in MLflow.",
        },
        "paths": paths,
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        # A service that is bound to loopback asks for no token.
        "security": [{"token": []}, {}],
    }
