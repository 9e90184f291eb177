'use client';

import Image from 'next/image';

import picture from './picture.png';
import './lazy.css';

export default function Lazy() {
  return (
    <div id="lazy">
      <p>{`lazy part of ${process.env.NEXT_PUBLIC_TEXT}`}</p>
      <Image id="picture" src={picture} alt="A picture of this build" />
    </div>
  );
}
