// Reads traceparent values with OpenTelemetry's propagator: one JSON string on each line of stdin,
// and its context or null on each line of stdout.
import { createInterface } from 'node:readline';

import { defaultTextMapGetter, ROOT_CONTEXT, trace } from '@opentelemetry/api';
import { W3CTraceContextPropagator } from '@opentelemetry/core';

const propagator = new W3CTraceContextPropagator();
for await (const line of createInterface({ input: process.stdin })) {
  const carrier = { traceparent: JSON.parse(line) };
  const context = propagator.extract(ROOT_CONTEXT, carrier, defaultTextMapGetter);
  const found = trace.getSpanContext(context);
  const shown = found && [found.traceId, found.spanId, (found.traceFlags & 1) === 1];
  console.log(JSON.stringify(shown ?? null));
}
