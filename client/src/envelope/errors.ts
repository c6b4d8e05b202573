/**
 * What can be wrong with an envelope, apart from what the service says of its data key.
 */

const MESSAGES = {
  MALFORMED: 'cannot open the envelope: the bytes are not an envelope, or are cut',
  NOT_AUTHENTIC:
    'cannot open the envelope: it was changed, or belongs to another record, field or context',
  WRONG_CONTENT:
    'cannot open the envelope: it holds a stream where a value is expected, or one in ' +
    'place of a stream',
} as const;

/** An envelope that does not open. Act on `reason`. */
export class EnvelopeError extends Error {
  override readonly name = 'EnvelopeError';
  readonly reason: keyof typeof MESSAGES;

  constructor(reason: keyof typeof MESSAGES) {
    super(MESSAGES[reason]);
    this.reason = reason;
  }
}
