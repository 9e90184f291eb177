'use client';

import { useActionState } from 'react';

import { greetAgain } from '../action/actions.js';

/** Shows the same text with JavaScript, by a fetch, and without, by a new page. */
export default function Form() {
  const [said, send] = useActionState(greetAgain, 'nothing yet');
  return (
    <form action={send}>
      <p id="said">{said}</p>
      <input name="name" defaultValue="Ada" />
      <button>Greet</button>
    </form>
  );
}
