/**
 * Clears a timer that ran for a time of its own, which no other timer has.
 *
 * Node lists timers by how long they run, and keeps an empty list of those that hold up no process
 * until the first of them would have fired: of connections that come and go, one list each for as
 * long as a connection may live.
 */
export function clearRareTimer(timer: NodeJS.Timeout): void {
  timer.ref();
  clearTimeout(timer);
}
