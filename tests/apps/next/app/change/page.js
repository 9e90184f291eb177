import { connection } from 'next/server';

import { change } from './actions.js';

/** A form whose hidden field `$ACTION_ID_…` has the id for the header `Next-Action`. */
export default async function Change() {
  await connection();
  return (
    <form action={change}>
      <input name="path" defaultValue="/isr" />
      <button>Change</button>
    </form>
  );
}
