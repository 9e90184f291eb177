import Image from 'next/image';

export default function Picture() {
  return <Image src="/picture.png" width={64} height={64} alt="A gradient" />;
}
