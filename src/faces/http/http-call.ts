/**
 * One call by HTTP, on its way in and out: its answer, whole or in pieces, its error, by Connect's
 * protocol.
 *
 * Invariant: every answer names the call's id.
 */
import type { OutgoingHttpHeaders } from 'node:http2';
import type { KeywardError } from '../../errors.ts';
import { challengeOf } from '../contract/status.ts';
import { ArrivingCall, type ArrivingCallParts } from '../transport/arriving-call.ts';
import type { JsonCodec } from './codec.ts';
import { END_STREAM, envelope, PLAIN } from './envelopes.ts';
import { errorJson, httpStatusOf } from './errors.ts';
import { acceptedTypes, contentTypeOf, type Form } from './request-headers.ts';
import type { Page } from './sign-off-page.ts';
import type { Wire } from './wire.ts';

/** What a call by HTTP is made of. */
export interface HttpCallParts extends Omit<ArrivingCallParts, 'path'> {
  readonly wire: Wire;
  /** How its messages are written. */
  readonly form: Form;
  readonly codec: JsonCodec;
}

/** How long a last word may take to be sent. */
const LAST_WORD_MS = 10_000;

/** Holds one call by HTTP. */
export class HttpCall extends ArrivingCall {
  override readonly face = 'http';
  readonly wire: Wire;
  readonly form: Form;
  readonly #codec: JsonCodec;
  /** The last word was said: at the deadline it may have been without the wrapper. */
  #hasEnded = false;

  constructor({ wire, form, codec, ...parts }: HttpCallParts) {
    super({ path: wire.path, ...parts });
    this.wire = wire;
    this.form = form;
    this.#codec = codec;
  }

  override get isOver(): boolean {
    return this.wire.isOver;
  }

  override get wasReset(): boolean {
    return this.wire.wasReset;
  }

  override onClose(listener: () => void): void {
    this.wire.onClose(listener);
  }

  override skipRequest(piece: (bytes: Buffer) => void): void {
    this.wire.read({ piece, whole: () => {} });
  }

  /** Sends one of many answers. Returns, where there is no room for another, what to wait for. */
  send(answer: Buffer): Promise<void> | undefined {
    if (this.#hasEnded) return undefined;
    if (!this.isAnswering) this.wire.begin(200, this.#headers());
    return this.wire.send(envelope(PLAIN, answer));
  }

  /** Says the last word: an error, or the answer, which is null where it was sent bit by bit. */
  finish(error: KeywardError | undefined, answer: Buffer | null): void {
    if (this.isOver || this.#hasEnded) return;
    if (error !== undefined) this.answerError(error);
    else if (answer === null) this.#endStream({});
    else {
      this.#hasEnded = true;
      // A copy: the wrapper overwrites what it gave.
      this.wire.answer(200, this.#headers(), Buffer.from(answer));
    }
  }

  /** Answers with what is no message. */
  answerPage({ headers, body }: Page): void {
    if (this.isOver || this.#hasEnded) return;
    this.#endSoon();
    this.wire.answer(200, { ...headers, ...this.answerHeaders }, body);
  }

  override get isAnswering(): boolean {
    return this.wire.isAnswering;
  }

  protected override answerError(error: KeywardError, httpStatus?: number): void {
    const json = errorJson(error, this, this.#codec);
    // What is no stream of Connect's at all is answered as what it is.
    if (this.form.isStream && httpStatus === undefined) {
      this.#endStream({ error: json });
      return;
    }
    this.#endSoon();
    const challenge = challengeOf(error);
    const headers = {
      'content-type': 'application/json',
      ...this.answerHeaders,
      ...(challenge !== undefined && { 'www-authenticate': challenge }),
      ...(httpStatus === 405 && { allow: 'POST' }),
      ...(httpStatus === 415 && { 'accept-post': acceptedTypes(this.form.isStream) }),
    };
    this.wire.answer(httpStatus ?? httpStatusOf(error), headers, Buffer.from(JSON.stringify(json)));
  }

  protected override cut(): void {
    this.wire.cut();
  }

  /** The last envelope, which says how a stream ended. */
  #endStream(end: object): void {
    this.#endSoon();
    if (!this.isAnswering) this.wire.begin(200, this.#headers());
    this.wire.end(envelope(END_STREAM, Buffer.from(JSON.stringify(end))));
  }

  /** Has a last word that is not read be the end all the same: some calls have no deadline yet. */
  #endSoon(): void {
    this.#hasEnded = true;
    const timer = setTimeout(() => this.wire.cut(), LAST_WORD_MS);
    this.onClose(() => clearTimeout(timer));
  }

  #headers(): OutgoingHttpHeaders {
    return { 'content-type': contentTypeOf(this.form), ...this.answerHeaders };
  }
}
