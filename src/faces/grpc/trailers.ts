/**
 * The end of an answer: a status of OK, in the same write as the message before it.
 *
 * Node ends a stream that waits for trailers once its last write is done, and sends them a turn of
 * the event loop later, as a TLS record of their own, for which both sides wake once more. Reaches
 * into Node for the stream's handle, and has Node do it in its way where it finds none.
 */
import type { ServerHttp2Stream } from 'node:http2';

const STATUS = { 'grpc-status': '0', 'grpc-message': 'OK' };
/** As HTTP/2's handle takes headers: name, value and flags of each, then how many. */
const HEADERS: HandleHeaders = [
  Object.entries(STATUS)
    .map(([name, value]) => `${name}\0${value}\0\0`)
    .join(''),
  Object.keys(STATUS).length,
];

type HandleHeaders = readonly [headers: string, count: number];

/** What is private of Node and used here. */
interface Handle {
  readonly trailers?: (headers: HandleHeaders) => number;
}

let handleSymbol: symbol | undefined;

/** Ends a stream whose answer waits for trailers with this last message and a status of OK. */
export function endWithStatus(stream: ServerHttp2Stream, message: Buffer): void {
  // Emitted while HTTP/2 takes the last of the message, when it takes trailers too
  // (nghttp2_submit_trailer in a read callback).
  stream.once('wantTrailers', () => {
    const handle = handleOf(stream);
    if (handle?.trailers === undefined) stream.sendTrailers(STATUS);
    else if (handle.trailers(HEADERS) < 0) stream.destroy();
  });
  stream.end(message);
  // Says that no more comes, before the message is taken; once it is written, that has no effect.
  if (handleOf(stream) !== undefined) stream._final(() => {});
}

function handleOf(stream: ServerHttp2Stream): Handle | undefined {
  handleSymbol ??= Object.getOwnPropertySymbols(stream).find(
    ({ description }) => description === 'kHandle',
  );
  return handleSymbol === undefined
    ? undefined
    : (stream as unknown as Record<symbol, Handle | undefined>)[handleSymbol];
}
