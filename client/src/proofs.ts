/**
 * What a caller proves who they are with, besides their certificate: the token of a call, another
 * in place of one that the service refused, and that of a stronger sign-in where a call wants one.
 *
 * Its invariant: each is asked for once between two answers, and never beyond the call's end.
 */
import { KeywardError, STEP_UP_REQUIRED } from './errors.ts';
import type { TokenSource } from './token.ts';

/** The stronger or fresher proof that a call wants (RFC 9470). */
export interface StepUp {
  /** Of which one will do; empty for any. */
  readonly acrValues: readonly string[];
  /** Authentication methods that `amr` must all have; empty for any. */
  readonly methods: readonly string[];
  /** How old the sign-in may be. */
  readonly maxAgeSeconds: number | undefined;
}

/** What a call has proven, and until when it may. */
export interface ProvenCall {
  /** Milliseconds of the clock; Infinity for none. Later by what a step-up took. */
  deadline: number;
  /** Aborts when the caller cancels the call, and when the client ends it. */
  readonly ending: AbortSignal;
  /** The token that was sent last. */
  token?: string;
  /** Another was asked for since the service's last answer. */
  hasNewToken: boolean;
  hasSteppedUp: boolean;
}

/** See this file's first paragraph. */
export class Proofs {
  readonly #source: TokenSource;
  readonly #stepUp: ((wanted: StepUp) => Promise<string>) | undefined;

  constructor(source: TokenSource, stepUp: ((wanted: StepUp) => Promise<string>) | undefined) {
    this.#source = source;
    this.#stepUp = stepUp;
  }

  /** Returns the token to send. Throws what `throwIfEnded` does where the call has ended. */
  async token(call: ProvenCall, throwIfEnded: () => void): Promise<string> {
    try {
      call.token = await beforeEnd(call, this.#source.get());
      return call.token;
    } catch (cause) {
      throwIfEnded();
      if (cause instanceof KeywardError) throw cause;
      throw new KeywardError({
        code: 'UNAUTHENTICATED',
        message: 'There is no token to call with.',
        cause,
      });
    }
  }

  /** Returns whether the call can be made again with another token than it failed with. */
  async hasOther(call: ProvenCall, error: unknown): Promise<boolean> {
    return (await this.#hasSteppedUp(call, error)) || this.#hasNewToken(call, error);
  }

  /**
   * Once, where the service wants a stronger proof, and the caller can give one. A person may have
   * to, so the time that it takes is not the call's.
   */
  async #hasSteppedUp(call: ProvenCall, error: unknown): Promise<boolean> {
    const wanted = stepUpOf(error);
    if (wanted === undefined || this.#stepUp === undefined || call.hasSteppedUp) return false;
    call.hasSteppedUp = true;
    const began = Date.now();
    const stronger = this.#stepUp(wanted);
    const { ending } = call;
    this.#source.replace(await beforeEnd({ ending, deadline: Infinity }, stronger));
    call.deadline += Date.now() - began;
    return true;
  }

  /** Once, where the service has refused a token, and the caller can give another. */
  async #hasNewToken(call: ProvenCall, error: unknown): Promise<boolean> {
    const { token, hasNewToken } = call;
    const isRefused = error instanceof KeywardError && error.code === 'UNAUTHENTICATED';
    if (!isRefused || token === undefined || hasNewToken) return false;
    call.hasNewToken = true;
    return beforeEnd(call, this.#source.refused(token)).catch(() => false);
  }
}

/** What `promise` gives, unless the call ends first. */
async function beforeEnd<T>(
  { deadline, ending }: Pick<ProvenCall, 'deadline' | 'ending'>,
  promise: Promise<T>,
): Promise<T> {
  let forget = () => {};
  const end = new Promise<never>((_, reject) => {
    const fail = (code: 'DEADLINE_EXCEEDED' | 'CANCELLED') =>
      reject(new KeywardError({ code, message: 'There was no token before the end of the call.' }));
    const cancel = () => fail('CANCELLED');
    const late = () => fail('DEADLINE_EXCEEDED');
    const timer = Number.isFinite(deadline) ? setTimeout(late, deadline - Date.now()) : undefined;
    ending.addEventListener('abort', cancel, { once: true });
    forget = () => {
      clearTimeout(timer);
      ending.removeEventListener('abort', cancel);
    };
  });
  return Promise.race([promise, end]).finally(forget);
}

/** What a call wants that failed with STEP_UP_REQUIRED. */
function stepUpOf(error: unknown): StepUp | undefined {
  if (!(error instanceof KeywardError) || error.reason !== STEP_UP_REQUIRED) return undefined;
  const words = (name: string) => (error.metadata.get(name) ?? '').split(' ').filter(Boolean);
  const [seconds] = words('max_age');
  return {
    acrValues: words('acr_values'),
    methods: words('amr_values'),
    maxAgeSeconds: seconds === undefined ? undefined : Number(seconds),
  };
}
