/**
 * Calls of any method as JSON over HTTP, given and returned as those over gRPC are: so that one
 * test can make the same call over both, and compare.
 */
import type { ClientHttp2Session, OutgoingHttpHeaders } from 'node:http2';
import {
  createFileRegistry,
  fromBinary,
  fromJson,
  type JsonValue,
  toBinary,
  toJsonString,
} from '@bufbuild/protobuf';
import { FileDescriptorSetSchema } from '@bufbuild/protobuf/wkt';
import { type MethodDefinition, status } from '@grpc/grpc-js';
import { readDescriptorSet } from '../../../src/faces/contract/descriptor-set.ts';
import { type Outcome, outcomeOf } from '../../access/outcome.ts';
import { askHttp2, failureIn, statusBytes } from './client.ts';
import { envelopesIn, inEnvelope } from './envelopes.ts';

/** The contract, as a Connect client knows it. */
export const registry = createFileRegistry(
  fromBinary(FileDescriptorSetSchema, readDescriptorSet()),
);

/** Makes a call, and returns how it ended. */
export async function askAsJson(
  session: ClientHttp2Session,
  definition: MethodDefinition<object, object>,
  request: object,
  headers: OutgoingHttpHeaders,
): Promise<Outcome> {
  const { path, responseStream } = definition;
  const [, service = '', own] = path.split('/');
  const method = registry.getService(service)?.methods.find(({ name }) => name === own);
  if (method === undefined) throw new Error(`the descriptors have no ${path}`);
  const message = fromBinary(method.input, definition.requestSerialize(request));
  const text = Buffer.from(toJsonString(method.input, message, { registry }));
  const answer = await askHttp2(session, {
    path,
    body: responseStream ? inEnvelope(text) : text,
    headers: {
      'content-type': `application/${responseStream ? 'connect+' : ''}json`,
      ...headers,
    },
  });
  const envelopes = responseStream ? envelopesIn(answer.body) : [];
  const first = responseStream ? envelopes.find(({ flags }) => flags === 0)?.json : answer.json;
  const ended = responseStream ? envelopes.at(-1)?.json['error'] : answer.json;
  const isError = responseStream ? ended !== undefined : answer.status !== 200;
  if (isError) {
    const error = ended as Readonly<Record<string, unknown>>;
    const { code, message, ...details } = failureIn(error);
    const name = String(code).replace('canceled', 'cancelled').toUpperCase();
    const number = status[name as keyof typeof status];
    const sent = statusBytes(error, number).toString('base64');
    const grpc = { 'grpc-message': encodeURI(String(message)), 'grpc-status-details-bin': sent };
    const body = Buffer.alloc(0);
    return outcomeOf(
      { status: number, message: String(message), ...details, headers: grpc, body },
      definition,
    );
  }
  const bytes =
    first === undefined
      ? undefined
      : toBinary(method.output, fromJson(method.output, first as JsonValue, { registry }));
  return outcomeOf(
    {
      status: 0,
      reason: undefined,
      message: 'OK',
      metadata: {},
      headers: {},
      body: bytes === undefined ? Buffer.alloc(0) : inEnvelope(Buffer.from(bytes)),
    },
    definition,
  );
}
