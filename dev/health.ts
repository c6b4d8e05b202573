/**
 * Asks a server whether it is ready: grpc.health.v1.Health/Check, spoken by hand over HTTP/2.
 *
 * By hand, because the request is five bytes and the gRPC library is not for this folder. Knows
 * nothing else of gRPC.
 */
import { readFileSync } from 'node:fs';
import { connect } from 'node:http2';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ClientIdentity } from './identities.ts';

/** HealthCheckRequest without a service: not compressed, length 0. */
const REQUEST = Buffer.alloc(5);
/** HealthCheckResponse with status SERVING: length 2, field 1, value 1. */
const SERVING = Buffer.from([0, 0, 0, 0, 2, 0x08, 0x01]);
const CHECK_TIMEOUT_MS = 1_000;
const CHECK_EVERY_MS = 20;

/** Waits until the server says SERVING; `signal` ends the waiting by throwing its reason. */
export async function waitUntilServing(client: ClientIdentity, signal: AbortSignal): Promise<void> {
  while (!(await isServing(client))) {
    signal.throwIfAborted();
    await sleep(CHECK_EVERY_MS);
  }
}

/** Whether the server says SERVING now. */
export function isServing(client: ClientIdentity): Promise<boolean> {
  const session = connect(`https://${client.address}`, {
    ca: readFileSync(client.caFile),
    cert: readFileSync(client.certFile),
    key: readFileSync(client.keyFile),
    minVersion: 'TLSv1.3',
  });
  return new Promise<boolean>((resolve) => {
    const received: Buffer[] = [];
    session.on('error', () => resolve(false));
    session.setTimeout(CHECK_TIMEOUT_MS, () => resolve(false));
    const request = session.request({
      ':method': 'POST',
      ':path': '/grpc.health.v1.Health/Check',
      'content-type': 'application/grpc',
      te: 'trailers',
    });
    request.on('error', () => resolve(false));
    request.on('data', (chunk: Buffer) => received.push(chunk));
    request.on('end', () => resolve(Buffer.concat(received).equals(SERVING)));
    request.end(REQUEST);
  }).finally(() => session.destroy());
}
