"""A collector of traces with OpenTelemetry's own messages: `collector.py GRPC_PORT HTTP_PORT`.

It writes one line of JSON for each span that it gets, one after each batch, and one that begins it
all. What it does with a batch stands in the file `mode` of its folder: `ok`, `hang`, `refuse`, or
`busy` for one that may be sent again. TLS if there is a `collector.pem` with a `collector.key`.
"""

import json
import pathlib
import sys
import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

lock = threading.Lock()


def mode():
    try:
        return pathlib.Path("mode").read_text().strip()
    except FileNotFoundError:
        return "ok"


def write(line):
    with lock:
        print(json.dumps(line), flush=True)


def value(any_value):
    kind = any_value.WhichOneof("value")
    return getattr(any_value, kind) if kind else None


def attributes(given):
    return {pair.key: value(pair.value) for pair in given}


def record(request, by, headers):
    """Writes the spans of a batch, and a line that says that they are all there."""
    for resource_spans in request.resource_spans:
        resource = attributes(resource_spans.resource.attributes)
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                write(
                    {
                        "by": by,
                        "headers": headers,
                        "resource": resource,
                        "scope": scope_spans.scope.name,
                        "trace_id": span.trace_id.hex(),
                        "span_id": span.span_id.hex(),
                        "parent": span.parent_span_id.hex(),
                        "state": span.trace_state,
                        "flags": span.flags,
                        "name": span.name,
                        "kind": span.kind,
                        "start": span.start_time_unix_nano,
                        "end": span.end_time_unix_nano,
                        "status": span.status.code,
                        "message": span.status.message,
                        "attributes": attributes(span.attributes),
                        "links": [
                            {"trace_id": link.trace_id.hex(), "span_id": link.span_id.hex()}
                            for link in span.links
                        ],
                    }
                )
    write({"complete": True})


class Traces(trace_service_pb2_grpc.TraceServiceServicer):
    def Export(self, request, context):
        how = mode()
        if how == "hang":
            time.sleep(3600)
        if how == "refuse":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not these")
        if how == "busy":
            context.abort(grpc.StatusCode.UNAVAILABLE, "later")
        record(request, "grpc", dict(context.invocation_metadata()))
        return trace_service_pb2.ExportTraceServiceResponse()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        how = mode()
        if how == "hang":
            time.sleep(3600)
        status = {"refuse": 400, "busy": 503}.get(how, 200)
        if self.path != "/v1/traces" or self.headers["content-type"] != "application/x-protobuf":
            status = 404
        if status == 200:
            request = trace_service_pb2.ExportTraceServiceRequest.FromString(body)
            record(request, "http", {name.lower(): text for name, text in self.headers.items()})
        response = trace_service_pb2.ExportTraceServiceResponse().SerializeToString()
        self.send_response(status)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(response)))
        self.end_headers()
        self.wfile.write(response)

    def log_message(self, *_):
        pass


def main():
    grpc_port, http_port = sys.argv[1:3]
    server = grpc.server(futures.ThreadPoolExecutor(8))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Traces(), server)
    address = f"127.0.0.1:{grpc_port}"
    certificate, key = pathlib.Path("collector.pem"), pathlib.Path("collector.key")
    http = ThreadingHTTPServer(("127.0.0.1", int(http_port)), Handler)
    if certificate.exists():
        import ssl

        pair = (key.read_bytes(), certificate.read_bytes())
        server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        http.socket = context.wrap_socket(http.socket, server_side=True)
    else:
        server.add_insecure_port(address)
    server.start()
    write({"ready": True})
    http.serve_forever()


main()
