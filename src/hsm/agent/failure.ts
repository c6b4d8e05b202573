/**
 * How the agent fails: one error type with the kind that travels to the server, and the one place
 * that tells PKCS#11's errors from everything else. Knows no operation.
 */
import type { FailureKind } from '../protocol.ts';

/**
 * A failure that the server is told of as it is. The message is for operators and holds no secret.
 */
export class AgentFailure extends Error {
  override readonly name = 'AgentFailure';
  readonly kind: FailureKind;

  constructor(kind: FailureKind, message: string, options?: ErrorOptions) {
    super(message, options);
    this.kind = kind;
  }
}

/**
 * The name of the PKCS#11 return value that an error reports, as `CKR_DEVICE_ERROR`, or undefined
 * for other errors.
 */
export function returnValueOf(error: unknown): string | undefined {
  // Some of the library's errors carry the name only within their message (measured).
  return error instanceof Error ? /CKR_[A-Z0-9_]+/.exec(error.message)?.[0] : undefined;
}

/** Whatever was thrown, as a failure. */
export function toFailure(error: unknown): AgentFailure {
  if (error instanceof AgentFailure) return error;
  const returnValue = returnValueOf(error);
  if (returnValue !== undefined) return new AgentFailure('token', returnValue, { cause: error });
  const message = error instanceof Error ? `${error.name}: ${error.message}` : 'unknown';
  return new AgentFailure('internal', message, { cause: error });
}
