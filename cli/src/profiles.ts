/**
 * The settings and profiles of a connection, which every program with the client reads the same way
 * (`client/src/settings/`). `profile-edits.ts` writes them.
 */
export * from 'keyward-client/settings';
