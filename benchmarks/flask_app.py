"""What one would write without the gateway: a form's files go to the bucket by boto3, a row into PostgreSQL, pages by OFFSET.

It checks neither who asks nor what a file contains, and a file is lost if the process ends between bucket and database."""

from __future__ import annotations

import os
from typing import Any
from uuid import uuid4

import boto3
import psycopg_pool
from flask import Flask, Response, jsonify, request

app = Flask(__name__)
pool = psycopg_pool.ConnectionPool(os.environ["DATABASE_URL"], min_size=1, max_size=16, open=False)
s3 = boto3.client(
    "s3",
    endpoint_url=os.environ["S3_ENDPOINT"],
    aws_access_key_id=os.environ["S3_ACCESS_KEY"],
    aws_secret_access_key=os.environ["S3_SECRET_KEY"],
    region_name="us-east-1",
)
BUCKET = os.environ["S3_BUCKET"]
COLUMNS = "id, name, size, key, uploaded_at"


@app.get("/health")
def health() -> str:
    return "ok"


@app.post("/upload")
def upload() -> tuple[Response, int]:
    made = []
    for file in request.files.getlist("files"):
        key = f"flask/{uuid4()}"
        size = file.stream.seek(0, os.SEEK_END)
        file.stream.seek(0)
        s3.upload_fileobj(file.stream, BUCKET, key)
        made.append(
            _rows(
                f"insert into bench_flask_files (name, size, key) values (%s, %s, %s) returning {COLUMNS}",
                [file.filename, size, key],
            )[0]
        )
    return jsonify(files=made), 201


@app.get("/files")
def files() -> Response:
    number, each = request.args.get("page", 1, int), request.args.get("limit", 50, int)
    page = f"select {COLUMNS} from bench_flask_files order by uploaded_at desc, id desc limit %s offset %s"
    total = _rows("select count(*) as total from bench_flask_files", [])[0]["total"]
    return jsonify(items=_rows(page, [each, (number - 1) * each]), total=total)


@app.get("/files/<int:file_id>")
def file(file_id: int) -> Response:
    return jsonify(_rows(f"select {COLUMNS} from bench_flask_files where id = %s", [file_id])[0])


@app.get("/files/<int:file_id>/url")
def url(file_id: int) -> Response:
    key = _rows("select key from bench_flask_files where id = %s", [file_id])[0]["key"]
    return jsonify(url=s3.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": key}))


@app.get("/files/<int:file_id>/download")
def download(file_id: int) -> Response:
    key = _rows("select key from bench_flask_files where id = %s", [file_id])[0]["key"]
    found = s3.get_object(Bucket=BUCKET, Key=key, Range=request.headers.get("Range", "bytes=0-"))
    status = 206 if "Range" in request.headers else 200
    headers = {"Content-Length": str(found["ContentLength"])}
    return Response(found["Body"].iter_chunks(256 * 1024), status, headers)


def _rows(statement: str, values: list[object]) -> list[dict[str, Any]]:
    pool.open()  # after the fork
    with pool.connection() as connection:
        cursor = connection.execute(statement, values)
        names = [column.name for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor]
