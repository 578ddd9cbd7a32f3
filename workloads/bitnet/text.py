"""The text that perplexity is taken on and prompts are cut from.

Written for this project, plain English prose, under its licence: no well-known text, which a model would have by heart.
"""

TEXT = """\
The ferry left the old harbour a little after seven. There were nine people on board, three bicycles, a crate of
lemons and a dog that belonged to nobody in particular. The captain had made the crossing for twenty-two years and no
longer looked at the chart. He steered by the chimney of the brick factory until it stood in line with the church, and
then turned north along the coast.

Marta sat on the upper deck with her coat buttoned to the chin. She was on her way to repair a clock. It stood in the
hall of a school on the island, and it had stopped in the winter, when the heating failed and the oil in its bearings
grew thick. The headmaster had written her a letter about it. In the letter he said that the children were late for
every lesson, and that nobody could blame them, because the clock was the only one in the building that was large
enough to be seen from the yard.

A clock of that kind is not a difficult machine. A weight hangs on a cable, and the cable is wound around a drum. As
the weight sinks, it turns the drum, and the drum turns a train of wheels. At the end of the train a small wheel with
pointed teeth is held and released by the pendulum, once for every swing. The weight gives the force and the pendulum
gives the time. If the wheels are clean and the pendulum hangs free, the clock will run for a hundred years, and
someone only has to wind it on Mondays.

The island came out of the mist slowly. First there was a grey line, then a row of trees, and then the white houses
around the landing. A boy was waiting on the pier with a cart. He took her tool box without a word and walked ahead of
her up the hill. Half way up he stopped to let a farmer pass with four cows, and there he asked whether it was true
that a clock could be ill.

"It can be dirty," said Marta. "It can be worn. Now and then it is only badly treated."

"Ours was hit by a football," said the boy, and he looked at his shoes.

In the hall she put the ladder against the wall and opened the case. The air inside smelled of dust and metal. She
took off the hands, then the dial, and counted the wheels as she laid them on a cloth: five large ones, four small
ones, and the one with the pointed teeth. Two of the teeth were bent. That was not the work of the cold. She
straightened them with a pair of flat pliers, a little at a time, because brass remembers how it was treated and
breaks when it is hurried.

At noon the children came through the hall on their way to the kitchen. They stood around the cloth and asked what
each part was for. She let the smallest of them turn the drum, so that they could see how one slow movement at the
bottom became a quick one at the top. A girl with a red scarf worked out that the last wheel had to turn sixty times
as fast as the first, and when they counted the teeth together, she was right.

By four in the afternoon the clock was in one piece again. Marta hung the pendulum, gave it a push and listened. The
first beats were uneven, like the steps of somebody with a stone in his shoe. She moved the case by the thickness of a
sheet of paper, listened again, and moved it back by half as much. Then the sound was even. The headmaster took out
his watch and waited for a whole minute before he nodded.

The last ferry left at five. The boy carried the tool box down to the pier, and this time he walked beside her. When
the ship was already moving, he called across the water that he had decided to learn the trade, if it could be done
without ladders. She laughed and called back that it could not. Behind him, on the hill, the bell of the school rang
the hour, and it was right.
"""
