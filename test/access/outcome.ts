/**
 * How a call ended, as a caller sees it: down to the bytes of an error, but for its request's id.
 */
import type { MethodDefinition } from '@grpc/grpc-js';
import type { Answer } from '../faults/http2.ts';

const UUID = /[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/g;

/** How a call ended. */
export interface Outcome {
  /** `OK`, or the reason why not. */
  readonly reason: string;
  readonly status: number | undefined;
  readonly message: string;
  readonly metadata: Readonly<Record<string, string>>;
  /** All that the caller can see of a failure, but for its request's id. */
  readonly seen: string;
  /** The answer, or of a stream its first. */
  readonly answer: Readonly<Record<string, unknown>>;
}

/** Returns how a call of gRPC's ended. */
export function outcomeOf(
  answer: Pick<Answer, 'status' | 'reason' | 'message' | 'metadata' | 'headers' | 'body'>,
  definition: MethodDefinition<object, object>,
): Outcome {
  const { status, reason, message, metadata, headers, body } = answer;
  const details = Buffer.from(String(headers['grpc-status-details-bin'] ?? ''), 'base64').toString(
    'latin1',
  );
  const length = body.length >= 5 ? body.readUInt32BE(1) : 0;
  const first =
    body.length >= 5 ? definition.responseDeserialize(body.subarray(5, 5 + length)) : {};
  return {
    reason: status === 0 ? 'OK' : (reason ?? 'closed'),
    status,
    message,
    metadata,
    seen: JSON.stringify([status, headers['grpc-message'], details.replaceAll(UUID, 'id'), length]),
    answer: first as Outcome['answer'],
  };
}
